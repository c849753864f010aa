"""Ask the base and the tuned model the same question over HTTP and print both answers as they come.

    tunesmith demo && tunesmith serve &
    python examples/compare.py "Who runs the bakery?"

Needs nothing but Python; any HTTP client can do the same.
"""

import json
import os
import sys
import urllib.request

SERVER = os.environ.get("TUNESMITH_URL", "http://127.0.0.1:8000")


def main(question: str) -> None:
    body = {"messages": [{"role": "user", "content": question}], "stream": True, "compare": True}
    body["options"] = {"temperature": 0, "repeat_penalty": 1.0, "num_predict": 64}
    request = urllib.request.Request(
        f"{SERVER}/ai/finetuning/chat", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    answers = {"base": "", "lora": ""}
    with urllib.request.urlopen(request) as stream:
        for line in stream:
            text = line.decode().strip().removeprefix("data: ")
            if not text or text == "[DONE]":
                continue
            event = json.loads(text)
            if "error" in event:
                sys.exit(event["error"])
            answers[event["source"]] += event.get("content", "")
    print("base: ", answers["base"])
    print("tuned:", answers["lora"])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "你好！")
