"""What every room uses and none owns: errors, files, the registry, messages, the device, progress."""
