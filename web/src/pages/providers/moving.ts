import type { Job } from './api';

/** Whether the job may yet change by itself. */
export const moves = (job: Job): boolean => job.status === 'pending' || job.status === 'running' || job.status === 'unknown';
