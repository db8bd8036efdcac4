"""Cloaking of videos: faces followed from frame to frame, one steady change a person."""
