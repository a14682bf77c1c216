"""How good speech is: what is understood of it (WER, CER), how clean it is (DNSMOS), and whose voice it has."""
