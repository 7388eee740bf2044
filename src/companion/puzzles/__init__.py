"""What is trained on: countdown and walks, their problems, splits and rewards, the alphabet that both are written in,
and single tasks of reasoning-gym. Uses no other room.
"""
