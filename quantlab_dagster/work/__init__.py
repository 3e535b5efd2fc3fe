"""What the work on both lakes is made of: fetching parts, temporary directories, threads that can be stopped, time."""
