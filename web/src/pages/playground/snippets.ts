/** The same call for a terminal, for Python and for JavaScript. No token is ever written into one. */

export type Language = 'curl' | 'python' | 'javascript';
type Body = Record<string, unknown>;

// what the official Python client has no argument of its own for
const EXTRA = new Set(['top_k', 'repetition_penalty', 'min_p']);

/** The call as code.
 * @param origin where the server is: `http://127.0.0.1:8000`.
 * @param key whether the server wants one.
 */
export function snippet(language: Language, origin: string, body: Body, key: boolean): string {
  if (language === 'curl') return curl(origin, body, key);
  return language === 'python' ? python(origin, body, key) : javascript(origin, body, key);
}

function curl(origin: string, body: Body, key: boolean): string {
  const lines = [`curl -N ${quoted(`${origin}/v1/chat/completions`)}`, `  -H 'Content-Type: application/json'`];
  if (key) lines.push(`  -H "Authorization: Bearer $TUNESMITH_API_KEY"`);
  lines.push(`  -d ${quoted(JSON.stringify({ ...body, stream: true }, null, 2))}`);
  return `${lines.join(' \\\n')}\n`;
}

/** One word of a POSIX shell. */
const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

function python(origin: string, body: Body, key: boolean): string {
  const own = Object.entries(body).filter(([name]) => !EXTRA.has(name));
  const extra = Object.entries(body).filter(([name]) => EXTRA.has(name));
  const given = own.map(([name, value]) => `    ${name}=${inPython(value, 1)},`);
  if (extra.length > 0) given.push(`    extra_body=${inPython(Object.fromEntries(extra), 1)},`);
  return [
    ...(key ? ['import os', ''] : []),
    'from openai import OpenAI',
    '',
    `client = OpenAI(base_url=${inPython(`${origin}/v1`, 0)}, api_key=${key ? 'os.environ["TUNESMITH_API_KEY"]' : '"none"'})`,
    'stream = client.chat.completions.create(',
    ...given,
    '    stream=True,',
    ')',
    'for chunk in stream:',
    '    if chunk.choices:',
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    '',
  ].join('\n');
}

/** A value as Python writes it; JSON's strings and numbers are Python's. */
export function inPython(value: unknown, depth: number): string {
  if (value === null || value === undefined) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  const [inner, outer] = ['    '.repeat(depth + 1), '    '.repeat(depth)];
  if (Array.isArray(value)) {
    if (value.length === 0) return '[]';
    return `[\n${value.map((each) => `${inner}${inPython(each, depth + 1)},\n`).join('')}${outer}]`;
  }
  if (typeof value === 'object') {
    const fields = Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${inPython(each, depth + 1)}`);
    return `{${fields.join(', ')}}`;
  }
  return JSON.stringify(value);
}

function javascript(origin: string, body: Body, key: boolean): string {
  const given = JSON.stringify({ ...body, stream: true }, null, 2);
  return [
    'import OpenAI from "openai";',
    '',
    `const client = new OpenAI({ baseURL: ${JSON.stringify(`${origin}/v1`)}, apiKey: ${key ? 'process.env.TUNESMITH_API_KEY' : '"none"'} });`,
    `const stream = await client.chat.completions.create(${given});`,
    'for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? "");',
    '',
  ].join('\n');
}
