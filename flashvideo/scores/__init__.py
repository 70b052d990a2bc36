"""What can be told of a video by numbers: see ``docs/scores.md``. Pictures first, numbers beside."""
