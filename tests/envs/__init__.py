import os

# Before anything imports MuJoCo: no test draws, and looking for a display only prints warnings.
os.environ.setdefault("MUJOCO_GL", "disable")
