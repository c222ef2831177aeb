"""Text to speech: one engine a file, an ASR that checks the sound, rules for what passes."""
