import { execFileSync } from 'node:child_process';

import { expect, test } from 'vitest';

import { inPython, snippet } from './snippets';

const NASTY = `it's "so" \\ $HOME \`x\` \n</script> 你好 \u{1f600}`;
const BODY = { model: 'adapters/town', messages: [{ role: 'user', content: NASTY }], temperature: 0, top_k: 5, stop: ['#'] };

test('curl hands the body over as it is, whatever is in it', () => {
  const code = snippet('curl', 'http://h:1', BODY, true).replace('curl -N', 'printf "%s\\0"');
  const words = execFileSync('sh', ['-c', code], { env: { TUNESMITH_API_KEY: 'k' } }).toString().split('\0');
  expect(words[0]).toBe('http://h:1/v1/chat/completions');
  expect(words).toContain('Authorization: Bearer k');
  expect(JSON.parse(words[words.indexOf('-d') + 1]!)).toEqual({ ...BODY, stream: true });
});

test('Python reads the values that were meant', () => {
  const value = { ...BODY, yes: true, no: false, nothing: null, none: [] };
  const code = `import json,sys; sys.stdout.write(json.dumps(${inPython(value, 0)}))`;
  expect(JSON.parse(execFileSync('python3', ['-c', code]).toString())).toEqual(value);
});

test('Python names what its client does not know as extra', () => {
  const code = snippet('python', 'http://h:1', BODY, false);
  execFileSync('python3', ['-c', `import ast,sys; ast.parse(sys.argv[1])`, code]);
  expect(code).toContain('extra_body={"top_k": 5},');
  expect(code).not.toContain('\n    top_k=');
  expect(code).toContain('api_key="none"');
});

test('JavaScript is a program, and no language has a token in it', () => {
  const code = snippet('javascript', 'http://h:1', BODY, true);
  execFileSync(process.execPath, ['--check', '--input-type=module', '-'], { input: code });
  for (const language of ['curl', 'python', 'javascript'] as const) {
    expect(snippet(language, 'http://h:1', BODY, true)).toContain('TUNESMITH_API_KEY');
    expect(snippet(language, 'http://h:1', BODY, false)).not.toContain('TUNESMITH_API_KEY');
  }
});
