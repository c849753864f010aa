import { Failure, introduced, said } from '../../api/client';
import type { components, paths } from '../../api/schema/finetune';

export type Uploaded = components['schemas']['Uploaded'];

/** A row that the server could not read. */
export interface BadRow {
  line: number | null;
  field: string;
  zh: string;
  en: string;
}

const PATH: keyof paths = '/api/finetune/upload-dataset';

/** Send `file`, and tell how much of it is on its way; XMLHttpRequest, as fetch does not tell.
 * @throws Failure as every call does; an AbortError where `signal` ends it.
 */
export function upload(file: File, tell: (sent: number, total: number) => void, signal: AbortSignal): Promise<Uploaded> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append('file', file);
    request.open('POST', PATH);
    for (const [name, value] of introduced()) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => tell(event.loaded, event.lengthComputable ? event.total : file.size);
    request.onerror = () => reject(new Failure(0, 'network error'));
    request.onabort = () => reject(new DOMException('aborted', 'AbortError'));
    request.onload = () => {
      const body = read(request.responseText);
      if (request.status >= 200 && request.status < 300) resolve(body as Uploaded);
      else reject(new Failure(request.status, said(body) ?? `HTTP ${request.status}`, body));
    };
    signal.addEventListener('abort', () => request.abort());
    request.send(form);
  });
}

/** The rows that a refusal names; none where it means the file as a whole. */
export function badRows(error: unknown): BadRow[] {
  if (!(error instanceof Failure)) return [];
  const details = (error.body as { details?: { bad_rows?: BadRow[] } } | undefined)?.details;
  return Array.isArray(details?.bad_rows) ? details.bad_rows : [];
}

function read(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
