"""What people look at: pages and sentences, made from a finished result alone."""
