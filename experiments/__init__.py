"""Does it help? Subjects, demonstrations and measured tables; run from the repository."""
