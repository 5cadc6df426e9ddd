"""llama.cpp itself: the only package that touches its C API, beside the runner."""
