"""How alike picture, sound and text of a clip are in one space: IB, IB-A, IA, IT, AVHScore and JavisScore."""
