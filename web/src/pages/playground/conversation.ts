/** What is said on this page: values, and what follows from them. Nothing here asks a server. */

import type { Asked } from './stream';

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** How answers are drawn; empty text leaves a field to the server. */
export interface Parameters {
  system: string;
  temperature: number | '';
  topP: number | '';
  maxTokens: number | '';
  seed: number | '';
  repetitionPenalty: number | '';
  topK: number | '';
  stop: string[];
}

export const USUAL: Parameters = {
  system: '', temperature: 0.7, topP: 0.9, maxTokens: 512, seed: '', repetitionPenalty: '', topK: '', stop: [],
};

export interface Column {
  key: string;
  model: string;
}

export type State = 'waiting' | 'writing' | 'done' | 'stopped' | 'failed' | 'interrupted';

export interface Answer {
  column: string;
  /** The name that was asked. */
  model: string;
  /** Who spoke: the version, where an alias was asked. */
  spoke: string | null;
  text: string;
  state: State;
  error: string | null;
  /** `length` where the answer was cut off. */
  finish: string | null;
  firstTokenMs: number | null;
  totalMs: number | null;
  tokens: number | null;
}

/** What was said of two hidden answers; `skipped` looked without judging. */
export type Verdict = 'left' | 'right' | 'tie' | 'bad' | 'skipped';

export interface Turn {
  key: string;
  prompt: string;
  /** In the order they are shown. */
  answers: Answer[];
  blind: boolean;
  verdict: Verdict | null;
}

export const live = (answer: Answer): boolean => answer.state === 'waiting' || answer.state === 'writing';
export const busy = (turns: readonly Turn[]): boolean => turns.some((turn) => turn.answers.some(live));
/** Whether sides are hidden still. */
export const hidden = (turn: Turn): boolean => turn.blind && turn.verdict === null;

export function begun(column: Column): Answer {
  return {
    column: column.key, model: column.model, spoke: null, text: '', state: 'waiting', error: null, finish: null,
    firstTokenMs: null, totalMs: null, tokens: null,
  };
}

/** The answer that a conversation goes on from: in blind turns the preferred one for both sides, so that the next
 * two answers follow the same words; else the column's own. */
export function wentOn(turn: Turn, column: string): Answer | undefined {
  if (turn.blind) return turn.answers[turn.verdict === 'right' ? 1 : 0];
  return turn.answers.find((answer) => answer.column === column);
}

/** What the model of `column` is shown before it answers `prompt`. Turns that it has no answer to are left out. */
export function messagesFor(turns: readonly Turn[], column: string, prompt: string, system: string): Message[] {
  const said: Message[] = system.trim() ? [{ role: 'system', content: system }] : [];
  for (const turn of turns) {
    const answer = wentOn(turn, column);
    if (!answer?.text) continue;
    said.push({ role: 'user', content: turn.prompt }, { role: 'assistant', content: answer.text });
  }
  return [...said, { role: 'user', content: prompt }];
}

/** The body of `POST /v1/chat/completions`, without what is left to the server. */
export function bodyOf(model: string, messages: Message[], given: Parameters): Asked {
  const body: Asked = { model, messages };
  if (given.temperature !== '') body.temperature = given.temperature;
  if (given.topP !== '') body.top_p = given.topP;
  if (given.maxTokens !== '') body.max_tokens = given.maxTokens;
  if (given.seed !== '') body.seed = given.seed;
  if (given.repetitionPenalty !== '') body.repetition_penalty = given.repetitionPenalty;
  if (given.topK !== '') body.top_k = given.topK;
  if (given.stop.length > 0) body.stop = given.stop;
  return body;
}

const TOO_SHORT_MS = 100; // what came together says how the network cut it, not how fast the model writes
const TOO_LONG_MS = 2_000;

/** Tokens a second while the answer was written, or, where all of it came at once, a speed that was exceeded; null where
 * there is nothing to tell. */
export function speedOf(answer: Answer): { perSecond: number; exact: boolean } | null {
  const { tokens, firstTokenMs, totalMs } = answer;
  if (!tokens || firstTokenMs === null || totalMs === null || totalMs <= 0) return null;
  const writing = totalMs - firstTokenMs;
  if (tokens > 1 && writing >= TOO_SHORT_MS) return { perSecond: ((tokens - 1) * 1000) / writing, exact: true };
  // a model that had to be started first was not slow
  return totalMs < TOO_LONG_MS ? { perSecond: (tokens * 1000) / totalMs, exact: false } : null;
}

/** Turns as a reload finds them: what was being written is cut off for good. */
export function restored(turns: readonly Turn[]): Turn[] {
  return turns.map((turn) => ({
    ...turn,
    answers: turn.answers.map((answer) => (live(answer) ? { ...answer, state: 'interrupted' as const } : answer)),
  }));
}

/** Two of the columns, and which of them is left, by chance.
 * @param random gives numbers in [0, 1).
 */
export function twoByChance<T>(columns: readonly T[], random: () => number = Math.random): T[] {
  const rest = [...columns];
  for (let at = rest.length - 1; at > 0; at -= 1) {
    const other = Math.floor(random() * (at + 1));
    [rest[at], rest[other]] = [rest[other]!, rest[at]!];
  }
  return rest.slice(0, 2);
}
