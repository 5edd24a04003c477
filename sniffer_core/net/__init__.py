"""From a captured frame to a checked TCP segment."""
