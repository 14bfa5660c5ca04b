"""The stages of the pipeline: the embedded world's teacher, distillation (1), grounding (2), test, export."""
