import './table.css';

import { useVirtualizer } from '@tanstack/react-virtual';
import { type ReactNode, useEffect, useRef } from 'react';

export interface Column<T> {
  label: string;
  /** width as CSS grid has it */
  width: string;
  shown: (row: T) => ReactNode;
}

interface Props<T> {
  /** what the table holds, for who does not see it */
  label: string;
  count: number;
  columns: Column<T>[];
  /** the row of that index; undefined while it is not here yet */
  row: (index: number) => T | undefined;
  /** the first cell opens the row; says which it is, for who does not see it */
  open: (index: number) => void;
  number: (index: number, row: T | undefined) => string;
  opens: (index: number) => string;
  /** which rows are looked at now: [first, last] */
  look: (first: number, last: number) => void;
  height?: string;
}

const ROW = 56; // px, two lines of text

/** Any number of rows of one height: only what can be seen is in the page. */
export function RowsTable<T>(given: Props<T>) {
  const { label, count, columns, row, open, number, opens, look, height = '60vh' } = given;
  const place = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({ count, getScrollElement: () => place.current, estimateSize: () => ROW, overscan: 8 });
  const items = virtual.getVirtualItems();
  const first = items[0]?.index ?? 0;
  const last = items[items.length - 1]?.index ?? 0;
  useEffect(() => look(first, last), [first, last, look]);
  const grid = { gridTemplateColumns: ['3.75rem', ...columns.map((each) => each.width)].join(' ') };
  return (
    <div ref={place} className="rows" style={{ maxHeight: height }} tabIndex={0} role="region" aria-label={label}>
      <div role="table" aria-label={label} aria-rowcount={count + 1}>
        <div role="row" aria-rowindex={1} className="rows-line rows-head" style={grid}>
          <span role="columnheader">#</span>
          {columns.map((each) => <span role="columnheader" key={each.label}>{each.label}</span>)}
        </div>
        <div role="rowgroup" className="rows-all" style={{ height: virtual.getTotalSize() }}>
          {items.map(({ index, start, size }) => {
            const found = row(index);
            const style = { ...grid, height: size, transform: `translateY(${start}px)` };
            return (
              <div
                key={index} role="row" aria-rowindex={index + 2} className="rows-line rows-row" style={style}
                onClick={() => open(index)}
              >
                <span role="cell">
                  <button type="button" className="rows-open" aria-label={opens(index)}>{number(index, found)}</button>
                </span>
                {columns.map((each) => (
                  <span role="cell" key={each.label} className="rows-cell">{found ? each.shown(found) : '…'}</span>
                ))}
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}
