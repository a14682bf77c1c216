"""What is asked of every pair, on the page and in the count."""

QUESTIONS = {
    "sync": "In which video do picture and sound fit together better in time?",
    "quality": "Which video has the better image quality?",
    "consistency": "Which video is more consistent from frame to frame?",
}
"""Name in the votes -> what is asked. The questions are those of Syncphony's user study (arXiv 2509.21893)."""

FORMAT = "avsync pairwise votes 1"
"""What a file of votes says that it is."""
