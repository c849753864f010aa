import { useCallback } from 'react';

import { useSay } from './words';

export const PARTS = ['train', 'validation', 'test'] as const;
export type PartName = (typeof PARTS)[number];

/** Says the parts of a split in the reader's language: "train 80, test 20". */
export function useSplits(): (splits: Record<string, number>) => string {
  const say = useSay();
  return useCallback(
    (splits) => PARTS.filter((part) => part in splits)
      .map((part) => `${say(`split.${part}`)} ${splits[part]!.toLocaleString()}`).join(' · '),
    [say],
  );
}
