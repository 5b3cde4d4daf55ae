"""What models look like on disk, and how they are turned into the form that an engine opens."""
