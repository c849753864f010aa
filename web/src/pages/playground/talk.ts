import { useSyncExternalStore } from 'react';

import { Failure } from '../../api/client';
import {
  type Answer, begun, bodyOf, busy, type Column, live, messagesFor, type Parameters, restored, type Turn, twoByChance,
  USUAL, type Verdict,
} from './conversation';
import { keepVote } from './kept-votes';
import { answering } from './stream';
import { voteOn } from './votes';

/** Everything this page shows. It lives beside the page: streams go on while another page is looked at, and a reload
 * finds it in the tab's own storage. */
export interface Talk {
  columns: Column[];
  parameters: Parameters;
  draft: string;
  blind: boolean;
  raw: boolean;
  turns: Turn[];
  /** The last vote could not be kept. */
  full: boolean;
}

export const MOST_COLUMNS = 4;
const KEPT = 'tunesmith.playground';
const SHOWN_EVERY_MS = 40;
const KEPT_EVERY_MS = 300;
const FRESH: Talk = { columns: [], parameters: USUAL, draft: '', blind: false, raw: false, turns: [], full: false };

let talk: Talk = found();
const listeners = new Set<() => void>();
const writing = new Map<string, { turn: string; answer: Answer; stop: AbortController }>();
let showing: ReturnType<typeof setTimeout> | undefined;
let keeping: ReturnType<typeof setTimeout> | undefined;
let made = 0;

window.addEventListener('pagehide', () => {
  show();
  keep();
});

function found(): Talk {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? 'null') as Partial<Talk> | null;
    if (kept === null || !Array.isArray(kept.turns) || !Array.isArray(kept.columns)) return FRESH;
    return {
      ...FRESH, ...kept, full: false, turns: restored(kept.turns), parameters: { ...USUAL, ...kept.parameters },
    };
  } catch {
    return FRESH;
  }
}

function keep(): void {
  clearTimeout(keeping);
  keeping = undefined;
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(talk));
  } catch {
    // a very long conversation: it is still on the page, only a reload would lose its end
  }
}

function change(next: Partial<Talk>): void {
  talk = { ...talk, ...next };
  keeping ??= setTimeout(keep, KEPT_EVERY_MS);
  for (const listener of listeners) listener();
}

function listen(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const useTalk = (): Talk => useSyncExternalStore(listen, () => talk);

const fresh = (): string => `${Date.now().toString(36)}-${(made += 1)}`;

export const setDraft = (draft: string): void => change({ draft });
export const setParameters = (changes: Partial<Parameters>): void =>
  change({ parameters: { ...talk.parameters, ...changes } });
export const setRaw = (raw: boolean): void => change({ raw });
export const setModel = (key: string, model: string): void =>
  change({ columns: talk.columns.map((column) => (column.key === key ? { ...column, model } : column)) });
export const addColumn = (model: string): void =>
  change({ columns: [...talk.columns, { key: fresh(), model }].slice(0, MOST_COLUMNS) });
export const removeColumn = (key: string): void =>
  change({ columns: talk.columns.filter((column) => column.key !== key) });

/** Sides are hidden, or not; from the first question on, so only while nothing is asked. */
export const setBlind = (blind: boolean): void => change({ blind });

/** Begin with these models and an empty conversation. */
export function startWith(models: readonly string[], draft = ''): void {
  stop();
  change({ columns: models.slice(0, MOST_COLUMNS).map((model) => ({ key: fresh(), model })), turns: [], draft });
}

/** Leave what was said behind; models and parameters stay. */
export function startAnew(): void {
  stop();
  change({ turns: [], full: false });
}

/** Ask every column, or two by chance where sides are hidden. */
export function ask(prompt: string): void {
  if (!prompt.trim() || talk.columns.length === 0 || busy(talk.turns)) return;
  const asked = talk.blind ? twoByChance(talk.columns) : talk.columns;
  const turn: Turn = { key: fresh(), prompt, answers: asked.map(begun), blind: talk.blind, verdict: null };
  const before = talk.turns;
  change({ turns: [...before, turn], draft: '' });
  for (const answer of turn.answers) void write(turn, before, answer);
}

/** Ask one column of the last turn once more. */
export function askAgain(turnKey: string, column: string): void {
  const at = talk.turns.findIndex((turn) => turn.key === turnKey);
  const turn = talk.turns[at];
  const old = turn?.answers.find((answer) => answer.column === column);
  if (!turn || !old || live(old)) return;
  const answer = begun({ key: column, model: old.model });
  replace(turnKey, answer);
  void write(turn, talk.turns.slice(0, at), answer);
}

/** Stop every answer that is being written; what has come stays. */
export function stop(): void {
  for (const each of [...writing.values()]) {
    each.answer = { ...each.answer, state: 'stopped' };
    each.stop.abort();
  }
  show();
  writing.clear();
}

/** Judge the two answers of a blind turn, and show whose they are. */
export function judge(turnKey: string, verdict: Verdict): void {
  const at = talk.turns.findIndex((turn) => turn.key === turnKey);
  const turn = talk.turns[at];
  if (!turn || turn.verdict !== null) return;
  const prompt = messagesFor(talk.turns.slice(0, at), '', turn.prompt, talk.parameters.system);
  const vote = voteOn(turn, verdict, prompt, new Date());
  const full = vote !== null && !keepVote(vote);
  change({ turns: talk.turns.map((each) => (each === turn ? { ...turn, verdict } : each)), full });
}

async function write(turn: Turn, before: readonly Turn[], first: Answer): Promise<void> {
  const id = `${turn.key}/${first.column}`;
  const job = { turn: turn.key, answer: first, stop: new AbortController() };
  writing.set(id, job);
  const began = performance.now();
  const since = (): number => performance.now() - began;
  const messages = messagesFor(before, first.column, turn.prompt, talk.parameters.system);
  try {
    for await (const heard of answering(bodyOf(first.model, messages, talk.parameters), job.stop.signal)) {
      if (job.stop.signal.aborted) break;
      const now = { ...job.answer, spoke: heard.spoke ?? job.answer.spoke };
      if (heard.text) {
        now.firstTokenMs ??= since();
        now.state = 'writing';
        now.text += heard.text;
      }
      if (heard.finish) [now.finish, now.totalMs] = [heard.finish, since()];
      if (heard.tokens !== undefined) now.tokens = heard.tokens;
      job.answer = now;
      showing ??= setTimeout(show, SHOWN_EVERY_MS);
    }
    if (!job.stop.signal.aborted) job.answer = { ...job.answer, state: 'done', totalMs: job.answer.totalMs ?? since() };
  } catch (error) {
    if (!job.stop.signal.aborted) {
      const told = error instanceof Failure && error.status !== 0 ? error.message : null;
      job.answer = { ...job.answer, state: 'failed', error: told };
    }
  }
  if (writing.get(id) !== job) return; // stopped: it was shown then
  show();
  writing.delete(id);
}

function show(): void {
  clearTimeout(showing);
  showing = undefined;
  if (writing.size === 0) return;
  change({
    turns: talk.turns.map((turn) => {
      const found = [...writing.values()].filter((each) => each.turn === turn.key);
      if (found.length === 0) return turn;
      const by = new Map(found.map((each) => [each.answer.column, each.answer]));
      return { ...turn, answers: turn.answers.map((answer) => by.get(answer.column) ?? answer) };
    }),
  });
}

function replace(turnKey: string, answer: Answer): void {
  change({
    turns: talk.turns.map((turn) =>
      turn.key === turnKey
        ? { ...turn, answers: turn.answers.map((each) => (each.column === answer.column ? answer : each)) }
        : turn,
    ),
  });
}
