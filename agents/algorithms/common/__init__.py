"""Hold what several algorithms share: base classes, the Q-learning policy, and the buffers of whole episodes and replay."""
