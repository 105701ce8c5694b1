"""Hold what several algorithms share: base classes, the Q policy, the buffers of whole episodes and replay."""
