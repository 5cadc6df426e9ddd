"""A bounded queue of requests with priorities, and the batches that are formed from it."""
