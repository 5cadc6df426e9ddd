"""The engine for asyncio: awaitable answers, token streams, conversations, pools."""
