"""The OpenAI and vLLM APIs: what requests say, and the exact bytes of the answers."""
