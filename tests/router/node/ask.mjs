// Asks a router by the official SDK and prints what the SDK made of it as JSON: `node ask.mjs URL SCENARIO`.

import OpenAI from "openai";

const [url, scenario] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0, timeout: 20_000 });
const chat = client.chat.completions;
const model = "research";
const question = [{ role: "user", content: "Why is the sky blue in the evening?" }];

const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city.",
    parameters: {
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

const verdict = {
  type: "json_schema",
  json_schema: {
    name: "verdict",
    strict: true,
    schema: {
      type: "object",
      properties: { answer: { type: "string" }, sure: { type: "boolean" } },
      required: ["answer", "sure"],
      additionalProperties: false,
    },
  },
};

const kindOf = (error) =>
  Object.entries(OpenAI).find(([name, kind]) => name.endsWith("Error") && error.constructor === kind)?.[0];

const described = (error) => ({
  kind: kindOf(error),
  status: error.status,
  code: error.code,
  type: error.type,
  param: error.param,
  message: error.message,
  requestId: error.requestID,
  retryAfter: error.headers?.get("retry-after"),
});

async function caught(promise) {
  try {
    await promise;
  } catch (error) {
    return described(error);
  }
  throw new Error("nothing was thrown");
}

const scenarios = {
  async whole() {
    const { data, response } = await chat.create({ model, messages: question }).withResponse();
    return { answer: data, panel: response.headers.get("x-moa-panel"), requestId: data._request_id };
  },

  async streamed() {
    const stream = await chat.create({
      model,
      messages: question,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return { chunks };
  },

  async helper() {
    const stream = chat.stream({ model, messages: question, stream_options: { include_usage: true } });
    let pieces = 0;
    stream.on("content", () => (pieces += 1));
    const answer = await stream.finalChatCompletion();
    return { answer, pieces, text: await stream.finalContent() };
  },

  async conversation() {
    const messages = [{ role: "system", content: "Answer briefly." }];
    for (const content of ["Who wrote Faust?", "When?", "And the second part?"]) {
      messages.push({ role: "user", content });
      const { choices } = await chat.create({ model, messages });
      messages.push(choices[0].message);
    }
    return { messages };
  },

  async tools() {
    const ask = { model, messages: question, tools: [weather], tool_choice: "required" };
    const whole = await chat.create(ask);
    const streamed = await chat.stream(ask).finalChatCompletion();
    return { whole: whole.choices[0], streamed: streamed.choices[0] };
  },

  async toolTurn() {
    const ran = [];
    const city = { ...weather.function, parse: JSON.parse, function: (given) => (ran.push(given), "rain") };
    const runner = chat.runTools({
      model,
      messages: [{ role: "user", content: "How is the weather?" }],
      tools: [{ type: "function", function: city }],
    });
    return { text: await runner.finalContent(), ran, roles: runner.messages.map(({ role }) => role) };
  },

  async schema() {
    const ask = { model, messages: question, response_format: verdict };
    const whole = await chat.create(ask);
    const streamed = await chat.stream(ask).finalContent();
    return { whole: JSON.parse(whole.choices[0].message.content), streamed: JSON.parse(streamed) };
  },

  async errors() {
    return {
      unknown: await caught(chat.create({ model: "nobody", messages: question })),
      bad: await caught(chat.create({ model, messages: question, n: 0 })),
      busy: await caught(chat.create({ model: "other", messages: question })),
      broken: await caught(chat.create({ model: "toolless", messages: question })),
    };
  },

  async brokenStream() {
    const stream = await chat.create({ model, messages: question, stream: true });
    let text = "";
    try {
      for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
    } catch (error) {
      return { text, error: described(error) };
    }
    throw new Error("the stream ended as if it were whole");
  },

  async abort() {
    const stream = await chat.create({ model, messages: question, stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta?.content) break;
    }
    return { aborted: stream.controller.signal.aborted };
  },

  async models() {
    const ids = [];
    for await (const { id } of client.models.list()) ids.push(id);
    return { ids, one: await client.models.retrieve("research:single") };
  },
};

console.log(JSON.stringify(await scenarios[scenario]()));
