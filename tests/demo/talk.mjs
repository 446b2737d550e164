// Talks to a router by the official SDK and prints what came of it as JSON: `node talk.mjs BASE_URL SCENARIO [JSON]`.

import OpenAI from "openai";

const [baseURL, scenario, given] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 110_000 });
const chat = client.chat.completions;
const model = "demo";
const include_usage = { stream_options: { include_usage: true } };

async function talk(questions, answerTo) {
  const messages = [{ role: "system", content: "Answer in one short sentence." }];
  const answers = [];
  for (const content of questions) {
    messages.push({ role: "user", content });
    const answer = await answerTo(messages);
    answers.push(answer);
    messages.push({ role: "assistant", content: answer.choices[0].message.content });
  }
  return answers;
}

const scenarios = {
  whole: (questions) => talk(questions, (messages) => chat.create({ model, messages })),

  streamed: (questions) =>
    talk(questions, async (messages) => {
      const stream = chat.stream({ model, messages, ...include_usage });
      let pieces = 0;
      let moa;
      stream.on("content", () => (pieces += 1));
      stream.on("chunk", (chunk) => (moa ??= chunk.moa));
      return { ...(await stream.finalChatCompletion()), pieces, moa };
    }),

  async request(body) {
    const stream = chat.stream({ model, ...body, ...include_usage });
    let moa;
    stream.on("chunk", (chunk) => (moa ??= chunk.moa));
    return { ...(await stream.finalChatCompletion()), moa };
  },
};

console.log(JSON.stringify(await scenarios[scenario](JSON.parse(given))));
