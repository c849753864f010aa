import { Anchor } from '@mantine/core';
import { Link } from 'wouter';

/** The way back to the list that this is one of. */
export function Back({ to, children }: { to: string; children: string }) {
  return <div><Anchor component={Link} href={to} size="sm" underline="always">← {children}</Anchor></div>;
}
