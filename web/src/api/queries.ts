import { QueryClient } from '@tanstack/react-query';

/** What the page has asked of the server, and its answers. A page may ask here for what it will show before it is drawn. */
export const queries = new QueryClient({
  defaultOptions: { queries: { retry: false, staleTime: 2_000, refetchOnWindowFocus: true } },
});
