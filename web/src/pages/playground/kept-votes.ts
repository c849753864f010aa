import { useSyncExternalStore } from 'react';

import type { Vote } from './votes';

// in this browser, for every tab of it: judgements, and the words they were about, but no token
const KEPT = 'tunesmith.votes';
const MOST = 1000;
const EMPTY: readonly Vote[] = [];

let last: { text: string | null; votes: readonly Vote[] } = { text: null, votes: EMPTY };
const listeners = new Set<() => void>();

function votes(): readonly Vote[] {
  const text = localStorage.getItem(KEPT);
  if (text !== last.text) last = { text, votes: read(text) };
  return last.votes;
}

function read(text: string | null): readonly Vote[] {
  if (text === null) return EMPTY;
  try {
    const found: unknown = JSON.parse(text);
    return Array.isArray(found) ? (found.filter(isVote) as Vote[]) : EMPTY;
  } catch {
    return EMPTY; // another program's, or cut off: nothing can be read from it
  }
}

function isVote(value: unknown): value is Vote {
  if (typeof value !== 'object' || value === null) return false;
  const vote = value as Record<string, unknown>;
  const texts = ['at', 'left', 'right', 'leftText', 'rightText'].every((name) => typeof vote[name] === 'string');
  return texts && Array.isArray(vote.prompt) && ['left', 'right', 'tie', 'bad'].includes(vote.verdict as string);
}

function write(next: readonly Vote[]): boolean {
  try {
    localStorage.setItem(KEPT, JSON.stringify(next));
  } catch {
    return false;
  }
  for (const listener of listeners) listener();
  return true;
}

/** Keep one more; the oldest go where there are very many. False where the browser has no room. */
export const keepVote = (vote: Vote): boolean => write([...votes(), vote].slice(-MOST));

/** Forget all of them. */
export const forgetVotes = (): boolean => write([]);

function listen(listener: () => void): () => void {
  listeners.add(listener);
  window.addEventListener('storage', listener);
  return () => {
    listeners.delete(listener);
    window.removeEventListener('storage', listener);
  };
}

/** Every vote kept in this browser, also those of its other tabs. */
export const useVotes = (): readonly Vote[] => useSyncExternalStore(listen, votes);
