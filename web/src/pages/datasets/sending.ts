import { useSyncExternalStore } from 'react';

import { upload, type Uploaded } from './upload';

/** A file on its way, or one that was refused. */
export interface Sending {
  key: number;
  file: File;
  state: 'waiting' | 'sending' | 'failed';
  sent: number;
  error?: unknown;
}

// beside the pages, so that looking at another one ends no upload
let list: readonly Sending[] = [];
let next = 0;
const stops = new Map<number, AbortController>();
const listeners = new Set<() => void>();
const arrivals = new Set<(kept: Uploaded, last: boolean) => void>();

function set(changed: readonly Sending[]): void {
  list = changed;
  for (const tell of listeners) tell();
}

const change = (key: number, changes: Partial<Sending>): void =>
  set(list.map((each) => (each.key === key ? { ...each, ...changes } : each)));

/** Send `files`, one after the other, so that the first is there soonest; what was refused before is forgotten. */
export function take(files: File[]): void {
  const made = files.map((file): Sending => ({ key: next++, file, state: 'waiting', sent: 0 }));
  set([...list.filter((each) => each.state !== 'failed'), ...made]);
  begin();
}

export function again(key: number): void {
  change(key, { state: 'waiting', sent: 0 });
  begin();
}

/** End it, or forget that it was refused. */
export function drop(key: number): void {
  stops.get(key)?.abort();
  set(list.filter((each) => each.key !== key));
  begin();
}

/** Hear of files that have arrived, and whether nothing else is left to tell; gives what stops it. */
export function onArrival(tell: (kept: Uploaded, last: boolean) => void): () => void {
  arrivals.add(tell);
  return () => arrivals.delete(tell);
}

export const useSending = (): readonly Sending[] => useSyncExternalStore(subscribe, () => list);

function subscribe(tell: () => void): () => void {
  listeners.add(tell);
  return () => listeners.delete(tell);
}

function begin(): void {
  const first = list.find((each) => each.state === 'waiting');
  if (!first || list.some((each) => each.state === 'sending')) return;
  const { key, file } = first;
  const stop = new AbortController();
  stops.set(key, stop);
  change(key, { state: 'sending', sent: 0 });
  upload(file, (sent) => change(key, { sent }), stop.signal)
    .then(
      (kept) => {
        set(list.filter((each) => each.key !== key));
        for (const tell of arrivals) tell(kept, list.length === 0);
      },
      (error: unknown) => {
        if (!stop.signal.aborted) change(key, { state: 'failed', error });
      },
    )
    .finally(() => {
      stops.delete(key);
      begin();
    });
}

window.addEventListener('beforeunload', (event) => {
  if (list.some((each) => each.state !== 'failed')) event.preventDefault();
});
