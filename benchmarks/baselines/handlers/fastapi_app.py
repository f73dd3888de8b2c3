"""A FastAPI app around transformers' pipeline, as tutorials write it; uvicorn runs it, one worker.

The checkpoint's folder comes in the environment variable CHECKPOINT.
"""

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

import handler.pooled_classifier  # noqa: F401 - makes transformers know it

app = FastAPI()
classify = pipeline(
    "text-classification", model=os.environ["CHECKPOINT"], device="cpu", trust_remote_code=False
)


class Body(BaseModel):
    """One text."""

    text: str


@app.get("/ping")
def ping() -> dict[str, str]:
    return {"status": "Healthy"}


@app.post("/predictions")
async def predictions(body: Body) -> dict[str, Any]:
    return classify(body.text, truncation=True)[0]
