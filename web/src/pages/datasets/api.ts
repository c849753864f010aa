import { useQuery, type UseQueryResult } from '@tanstack/react-query';

import { get, send } from '../../api/client';

/** A kept dataset, an uploaded file or a sample file, as `GET /datasets` shows it. */
export interface Dataset {
  id: string;
  kind: 'dataset' | 'upload' | 'sample';
  name: string;
  /** what it is called wherever a dataset is asked for */
  dataset_path: string;
  format: string;
  shape: string | null;
  examples: number;
  skipped: number;
  splits: Record<string, number>;
  size_bytes: number;
  description: string;
  created_at: string | null;
}

export interface Message {
  role: string;
  content: string;
}

export interface Row {
  line: number;
  messages?: Message[];
  chosen?: Message[];
  rejected?: Message[];
  problem?: { field: string; zh: string; en: string };
}

export interface Window {
  shape: string;
  offset: number;
  total_count: number;
  rows: Row[];
}

export interface Spread {
  total: number;
  least: number;
  median: number;
  p99: number;
  most: number;
}

export interface Part {
  label: string;
  examples: number;
  bad: number;
  duplicates: number;
  leaks: number;
  cut: number;
  answers_lost: number;
  tokens: Spread | null;
  learned: Spread | null;
  lengths: { upto: number; rows: number }[];
}

export interface Finding {
  level: 'error' | 'warning';
  kind: string;
  part: string;
  file: string;
  line: number | null;
  field: string;
  zh: string;
  en: string;
}

export interface Report {
  ok: boolean;
  line: { zh: string; en: string };
  base: string;
  max_length: number;
  ends: string[];
  parts: Part[];
  findings: Finding[];
}

export interface Preview {
  file: string;
  line: number;
  tokens: number;
  learned: number;
  answer: '' | 'chosen' | 'rejected';
  shortened: boolean;
  pieces: { text: string; learned: boolean; cut: boolean }[];
}

/** How a base model reads the data: its template, and where it cuts. */
export interface Reading {
  base: string;
  most: number | null;
}

const at = (id: string): string => `/datasets/${encodeURIComponent(id)}`;
const asked = (reading: Reading): string =>
  `base_model=${encodeURIComponent(reading.base)}${reading.most ? `&max_length=${reading.most}` : ''}`;

export const WINDOW = 100;

/** Everything there is to train on; looked at again now and then, so that two tabs agree. */
export function useDatasets(): UseQueryResult<Dataset[]> {
  return useQuery({
    queryKey: ['datasets'],
    queryFn: async ({ signal }) => (await get<{ datasets: Dataset[] }>('/datasets', signal)).datasets,
    refetchInterval: 10_000,
  });
}

export function useDataset(id: string): UseQueryResult<Dataset> {
  return useQuery({ queryKey: ['datasets', id], queryFn: ({ signal }) => get<Dataset>(at(id), signal) });
}

/** Rows `number * WINDOW` and on. */
export const windowQuery = (id: string, part: string, number: number, version: string) => ({
  queryKey: ['datasets', id, 'rows', part, number, version],
  queryFn: ({ signal }: { signal: AbortSignal }) =>
    get<Window>(`${at(id)}/rows?part=${part}&offset=${number * WINDOW}&limit=${WINDOW}`, signal),
  staleTime: Infinity,
});

export function useReport(id: string, reading: Reading, version: string): UseQueryResult<Report> {
  return useQuery({
    queryKey: ['datasets', id, 'check', reading, version],
    queryFn: ({ signal }) => get<Report>(`${at(id)}/check?${asked(reading)}`, signal),
    staleTime: Infinity,
    refetchOnWindowFocus: false,
  });
}

export const SHOWN = 5;

export function usePreviews(
  id: string, reading: Reading, part: string, page: number, version: string,
): UseQueryResult<{ max_length: number; preview: Preview[] }> {
  return useQuery({
    queryKey: ['datasets', id, 'mask', reading, part, page, version],
    queryFn: ({ signal }) =>
      get(`${at(id)}/mask?${asked(reading)}&part=${part}&offset=${page * SHOWN}&limit=${SHOWN}`, signal),
    staleTime: Infinity,
    refetchOnWindowFocus: false,
    placeholderData: (before) => before, // nothing jumps while the next ones come
  });
}

export async function remove(id: string): Promise<void> {
  await send(at(id), { method: 'DELETE' });
}

export const pathOf = at;
