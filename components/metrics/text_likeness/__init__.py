"""How well pictures and sounds fit their words by models that anybody may use: CLIP score and CLAP score."""
