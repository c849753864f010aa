import { useQuery, type UseQueryResult } from '@tanstack/react-query';

import { carry } from './client';
import type { components } from './schema/gpt_service';
import { answer, api } from './typed';

/** Whom the server takes this tab for, and what the server is. */
export type Session = components['schemas']['Session'];

export function useSession(): UseQueryResult<Session> {
  return useQuery({ queryKey: ['session'], queryFn: ({ signal }) => answer(api.GET('/session', { signal })) });
}

/** Carry the token of who gives a name and a password.
 * @throws Failure where they are not let in.
 */
export async function logIn(username: string, password: string): Promise<void> {
  const issued = await answer(api.POST('/api/v1/login', { body: { username, password } }));
  carry(issued.token);
}

/** Carry an API key.
 * @throws Failure where nobody has it; nothing is carried then.
 */
export async function enterWithKey(key: string): Promise<void> {
  carry(key);
  try {
    await answer(api.GET('/api/v1/models'));
  } catch (error) {
    carry(null);
    throw error;
  }
}
