import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

// the server gives out what is built under /app; while developing, everything else is asked of a running one
const server = process.env.TUNESMITH_URL ?? 'http://127.0.0.1:8000';

export default defineConfig({
  base: '/app/',
  plugins: [react()],
  build: {
    outDir: '../src/tunesmith/web/built',
    emptyOutDir: true,
    target: 'es2022',
    assetsInlineLimit: 0, // the content security policy allows no data: scripts or styles
    cssCodeSplit: false, // a few kB: no page can come without its style
    chunkSizeWarningLimit: 320,
  },
  // the Host stays the page's own, or the server would take every change for a foreign page's
  server: { proxy: { '^/(?!app)': { target: server, changeOrigin: false } } },
});
