// The TypeScript clients, each from its own provider and from every arm: node matrix.mjs ORIGIN ARM,ARM...
// Prints one JSON object: {client: {kind: {arm: what an app sees, or the error's text}}}; the arm "" is the own provider.
import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, jsonSchema, Output, streamText, tool } from "ai";
import OpenAI from "openai";

const [origin, arms] = [process.argv[2], process.argv[3].split(",")];
const v1 = `${origin}/v1`;
const ask = "What is 17 + 25?";
const schema = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
const names = ["weather", "clock"];
const messages = [{ role: "user", content: ask }];
const headers = (arm) => (arm ? { "x-sidecar-tags": `arm=${arm}` } : {});
const format = { type: "json_schema", json_schema: { name: "trip", schema, strict: true } };

const openai = (arm) => new OpenAI({ baseURL: v1, apiKey: "k", maxRetries: 0, defaultHeaders: headers(arm) });
const chatTools = names.map((name) => ({ type: "function", function: { name, parameters: schema } }));
const chatSeen = (answer) => {
  const { message, finish_reason } = answer.choices[0];
  const calls = (message.tool_calls ?? []).map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
  return { text: calls.length ? "" : message.content, calls, finish_reason, out: answer.usage?.completion_tokens };
};
const chat = {
  chat: async (arm) => chatSeen(await openai(arm).chat.completions.create({ model: "plain", messages })),
  stream: async (arm) => {
    const asked = { model: "plain", messages, stream_options: { include_usage: true } };
    return chatSeen(await openai(arm).chat.completions.stream(asked).finalChatCompletion());
  },
  tools: async (arm) =>
    chatSeen(await openai(arm).chat.completions.create({ model: "two-calls", messages, tools: chatTools })),
  tools_stream: async (arm) => {
    const asked = { model: "two-calls", messages, tools: chatTools, stream_options: { include_usage: true } };
    return chatSeen(await openai(arm).chat.completions.stream(asked).finalChatCompletion());
  },
  schema: async (arm) =>
    chatSeen(await openai(arm).chat.completions.create({ model: "plain", messages, response_format: format })),
};

const functions = names.map((name) => ({ type: "function", name, parameters: schema, strict: false }));
const responseSeen = (answer) => {
  const items = answer.output.filter((item) => item.type === "function_call");
  const calls = items.map((item) => [item.name, JSON.parse(item.arguments)]);
  return { text: calls.length ? "" : answer.output_text, calls, status: answer.status, out: answer.usage?.output_tokens };
};
const respond = (arm, more) => openai(arm).responses.create({ model: "plain", input: ask, store: false, ...more });
const responses = {
  chat: async (arm) => responseSeen(await respond(arm)),
  stream: async (arm) =>
    responseSeen(await openai(arm).responses.stream({ model: "plain", input: ask, store: false }).finalResponse()),
  tools: async (arm) => responseSeen(await respond(arm, { model: "two-calls", tools: functions })),
  schema: async (arm) =>
    responseSeen(await respond(arm, { text: { format: { type: "json_schema", name: "trip", schema, strict: true } } })),
};

const claude = (arm) => new Anthropic({ baseURL: origin, apiKey: "k", maxRetries: 0, defaultHeaders: headers(arm) });
const claudeTools = names.map((name) => ({ name, input_schema: schema }));
const claudeSeen = (answer) => {
  const calls = answer.content.filter((block) => block.type === "tool_use").map((block) => [block.name, block.input]);
  const text = answer.content.map((block) => block.text ?? "").join("");
  return { text: calls.length ? "" : text, calls, stop: answer.stop_reason, out: answer.usage.output_tokens };
};
const claudeAsk = (more) => ({ model: "plain", max_tokens: 200, messages, ...more });
const anthropic = {
  chat: async (arm) => claudeSeen(await claude(arm).messages.create(claudeAsk())),
  stream: async (arm) => claudeSeen(await claude(arm).messages.stream(claudeAsk()).finalMessage()),
  tools: async (arm) =>
    claudeSeen(await claude(arm).messages.create(claudeAsk({ model: "two-calls", tools: claudeTools }))),
  tools_stream: async (arm) =>
    claudeSeen(await claude(arm).messages.stream(claudeAsk({ model: "two-calls", tools: claudeTools })).finalMessage()),
  schema: async (arm) =>
    claudeSeen(
      await claude(arm).messages.create(claudeAsk({ output_config: { format: { type: "json_schema", schema } } })),
    ),
};

const aiTools = Object.fromEntries(
  names.map((name) => [name, tool({ description: name, inputSchema: jsonSchema(schema) })]),
);
const vercel = (of) => {
  const asked = (arm, more) => ({ model: of(arm, "plain"), prompt: ask, maxRetries: 0, maxOutputTokens: 200, ...more });
  const called = (calls) => calls.map((call) => [call.toolName, call.input]);
  const tools = (arm) => asked(arm, { model: of(arm, "two-calls"), tools: aiTools });
  return {
    chat: async (arm) => {
      const answer = await generateText(asked(arm));
      return { text: answer.text, finish: answer.finishReason, out: answer.usage.outputTokens };
    },
    stream: async (arm) => {
      const answer = streamText(asked(arm, { onError: () => undefined }));
      return { text: await answer.text, finish: await answer.finishReason, out: (await answer.usage).outputTokens };
    },
    tools: async (arm) => called((await generateText(tools(arm))).toolCalls),
    tools_stream: async (arm) => called(await streamText({ ...tools(arm), onError: () => undefined }).toolCalls),
    schema: async (arm) => {
      const output = Output.object({ schema: jsonSchema(schema) });
      return (await generateText(asked(arm, { output }))).output;
    },
  };
};

const clients = {
  "openai-chat": chat,
  "openai-responses": responses,
  anthropic,
  "ai-openai-chat": vercel((arm, model) => createOpenAI({ baseURL: v1, apiKey: "k", headers: headers(arm) }).chat(model)),
  "ai-openai-responses": vercel((arm, model) =>
    createOpenAI({ baseURL: v1, apiKey: "k", headers: headers(arm) }).responses(model),
  ),
  "ai-anthropic": vercel((arm, model) => createAnthropic({ baseURL: v1, apiKey: "k", headers: headers(arm) })(model)),
  "ai-google": vercel((arm, model) =>
    createGoogleGenerativeAI({ baseURL: `${origin}/v1beta`, apiKey: "k", headers: headers(arm) })(model),
  ),
};
const seen = {};
for (const [client, kinds] of Object.entries(clients)) {
  seen[client] = {};
  for (const [kind, call] of Object.entries(kinds)) {
    seen[client][kind] = {};
    for (const arm of ["", ...arms]) {
      try {
        seen[client][kind][arm] = await call(arm);
      } catch (error) {
        seen[client][kind][arm] = `failed: ${error}`;
      }
    }
  }
}
console.log(JSON.stringify(seen));
