import './quiet.css';
import './drop.css';

import { Button, FileButton, Stack, Text } from '@mantine/core';
import { IconFileUpload } from '@tabler/icons-react';
import { type DragEvent, useState } from 'react';

interface Props {
  /** what to do here */
  title: string;
  /** which files are meant */
  hint: string;
  /** the verb on the button */
  choose: string;
  accept: string;
  take: (files: File[]) => void;
}

/** A place to drop files on; the button does the same for a keyboard. */
export function Drop({ title, hint, choose, accept, take }: Props) {
  const [over, setOver] = useState(false);
  const move = (event: DragEvent, inside: boolean) => {
    event.preventDefault();
    setOver(inside);
  };
  return (
    <div
      className="drop"
      data-over={over || undefined}
      onDragOver={(event) => move(event, true)}
      onDragLeave={(event) => move(event, false)}
      onDrop={(event) => {
        move(event, false);
        take([...event.dataTransfer.files]);
      }}
    >
      <IconFileUpload size={32} aria-hidden />
      <Stack gap={2} style={{ flex: '0 1 auto' }}>
        <Text fw={600}>{title}</Text>
        <Text size="sm" className="quiet">{hint}</Text>
      </Stack>
      <FileButton onChange={take} accept={accept} multiple inputProps={{ 'aria-label': choose }}>
        {(props) => <Button {...props}>{choose}</Button>}
      </FileButton>
    </div>
  );
}
