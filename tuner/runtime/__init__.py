"""Plans at inference: code generation, the chunk loop, and ``apply``."""
