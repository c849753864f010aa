/** Why a call did not work, as the server says it. `status` 0 means nobody answered. */
export class Failure extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly body: unknown = undefined,
  ) {
    super(message);
  }
}

// for this tab alone: never in localStorage, which every later page of this origin could read
const KEPT = 'tunesmith.token';
let token: string | null = typeof sessionStorage === 'undefined' ? null : sessionStorage.getItem(KEPT);
const waiting = new Set<() => void>();

/** The token that calls carry from now on; null carries none. */
export function carry(next: string | null): void {
  token = next;
  if (next === null) sessionStorage.removeItem(KEPT);
  else sessionStorage.setItem(KEPT, next);
}

/** Whether calls carry a token. */
export const carries = (): boolean => token !== null;

/** Have `told` called whenever a call is refused for want of a token that is good; gives what ends that. */
export function onRefused(told: () => void): () => void {
  waiting.add(told);
  return () => void waiting.delete(told);
}

const language = (): string => document.documentElement.lang || 'zh-CN';

/** The headers that every call carries; for what fetch cannot do, such as the progress of an upload. */
export function introduced(): [string, string][] {
  const found: [string, string][] = [['Accept-Language', language()]];
  if (token !== null) found.push(['Authorization', `Bearer ${token}`]);
  return found;
}

/** The answer to `request` as it comes, asked as who uses the page, in the reader's language.
 * @throws Failure where nobody answers, or the answer is no success; in the reader's language.
 */
export async function pass(request: Request): Promise<Response> {
  for (const [name, value] of introduced()) request.headers.set(name, value);
  let response: Response;
  try {
    response = await fetch(request);
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error;
    throw new Failure(0, String(error));
  }
  // /api/v1 wants a token of everybody, also where the rest wants none: who asks there says so itself
  if (response.status === 401 && !new URL(request.url).pathname.startsWith('/api/v1/')) waiting.forEach((told) => told());
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response: Response): Promise<Failure> {
  const text = await response.text();
  let body: unknown = text;
  try {
    body = JSON.parse(text);
  } catch {
    // plain text says it as well
  }
  return new Failure(response.status, said(body) ?? `HTTP ${response.status}`, body);
}

/** The message in an error body of any of the dialects. */
export function said(body: unknown): string | null {
  if (typeof body === 'string') return body.trim() || null;
  if (typeof body !== 'object' || body === null) return null;
  const fields = body as Record<string, unknown>;
  for (const name of ['message', 'detail', 'error']) {
    const found = said(fields[name]);
    if (found) return found;
  }
  return null;
}
