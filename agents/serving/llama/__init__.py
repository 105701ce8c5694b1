"""Speak to llama.cpp's servers: its own, and llama-cpp-python's."""
