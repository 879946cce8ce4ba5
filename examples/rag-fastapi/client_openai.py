"""Uses the gateway with the openai library: base_url is the gateway, api_key is the access token.

    python client_openai.py http://127.0.0.1:8080

Prints what it sees; exits 1 at the first mismatch.
"""

import httpx
import openai

from gateway_client import arguments, check, register_and_login

QUESTION = [{"role": "user", "content": "How many days of paid leave do I have?"}]


def main() -> None:
    args = arguments("Uses the gateway with the openai library.")
    with httpx.Client(base_url=args.gateway, timeout=30) as client:
        token, _ = register_and_login(client, args)

    # No retries: a mismatch should show, not be tried again.
    ai = openai.OpenAI(base_url=f"{args.gateway}/v1", api_key=token, max_retries=0, timeout=30)
    models = [model.id for model in ai.models.list()]
    check("the model is listed", models == ["lexical-1"], models)

    whole = ai.chat.completions.create(model="lexical-1", messages=QUESTION).choices[0].message.content
    check("an answer at once", "28 days" in whole, whole)

    pieces, finish, usage = [], None, None
    options = {"include_usage": True}
    stream = ai.chat.completions.create(model="lexical-1", messages=QUESTION, stream=True, stream_options=options)
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces += [choice.delta.content] if choice.delta.content else []
            finish = choice.finish_reason or finish
    check("the same answer in pieces", len(pieces) > 3 and "".join(pieces) == whole, pieces)
    check("the stream ends as it should", finish == "stop" and usage is not None, (finish, usage))
    print(f"answer: {whole}")

    try:
        openai.OpenAI(base_url=f"{args.gateway}/v1", api_key="not.a.token", max_retries=0).models.list()
        check("a wrong key is refused", False, "it was taken")
    except openai.AuthenticationError as error:
        check("a wrong key is refused with 401", error.status_code == 401, error)
    print("client_openai: all good")


if __name__ == "__main__":
    main()
