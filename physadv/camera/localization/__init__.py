"""Find a printed sticker in a camera frame: ArUco markers, image features, pose."""
