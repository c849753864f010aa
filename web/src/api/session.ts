import { useQuery, type UseQueryResult } from '@tanstack/react-query';

import { carry, get, post } from './client';

/** Whom the server takes this tab for, and what the server is. */
export interface Session {
  user: string;
  admin: boolean;
  wants_token: boolean;
  open_to_network: boolean;
  version: string;
  home: string | null;
}

export function useSession(): UseQueryResult<Session> {
  return useQuery({ queryKey: ['session'], queryFn: ({ signal }) => get<Session>('/session', signal) });
}

/** Carry the token of who gives a name and a password.
 * @throws Failure where they are not let in.
 */
export async function logIn(username: string, password: string): Promise<void> {
  const issued = await post<{ token: string }>('/api/v1/login', { username, password });
  carry(issued.token);
}

/** Carry an API key.
 * @throws Failure where nobody has it; nothing is carried then.
 */
export async function enterWithKey(key: string): Promise<void> {
  carry(key);
  try {
    await get('/api/v1/models');
  } catch (error) {
    carry(null);
    throw error;
  }
}
