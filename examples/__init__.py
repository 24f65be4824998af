"""Programs to look at with tracedthread. They are plain code and know nothing of it."""
