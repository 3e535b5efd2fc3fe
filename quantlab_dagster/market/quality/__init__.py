"""What a day is worth: the collectors' own windows of 15 minutes, judged by versioned rules."""
