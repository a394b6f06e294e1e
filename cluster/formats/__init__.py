"""Transcripts as srt, vtt, rttm, txt and json."""
