"""Truth as judge: what rendered scenes show, frame by frame, found by colour and shape and by nothing learnt."""
