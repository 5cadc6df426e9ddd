"""What carries out a `StepPlan`: llama.cpp, or a script for tests."""
