"""Extra terms of a distillation: the teacher's inner states as hints for the student's; one file a term."""
