"""What the small policy is trained on: countdown and walks, their problems, splits and rewards, and the alphabet that
both are written in. Uses no other room.
"""
