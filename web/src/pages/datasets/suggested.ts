/** A name that a dataset may have, made of what the file is called. */
export function suggested(name: string): string {
  const stem = name.replace(/\.(jsonl?|ndjson|csv)$/i, '').replace(/[^\p{L}\p{M}\p{N}_-]+/gu, '-').replace(/^-+|-+$/g, '');
  return `${stem.slice(0, 56) || 'data'}-split`;
}
